"""The page of a report: the report itself."""
