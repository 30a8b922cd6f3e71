"""Curation: sources of many formats become one corpus, and every record is accounted for."""
