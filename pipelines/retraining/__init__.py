"""Champion and challenger: what is compared when a student is trained again, and what is decided by it."""
