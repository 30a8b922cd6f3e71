"""Making a benchmark in PerBench's format from one's own pictures: candidates, drafts, checks, review, export."""
