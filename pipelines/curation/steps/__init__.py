"""Steps of curation: plain functions over records, pictures and masks."""
