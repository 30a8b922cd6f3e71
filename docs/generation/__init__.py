"""What the site has beside the pages of docs/: reference pages from code, and documents of the root."""
