"""Who writes drafts: an endpoint, a local model, a template; other distributions add theirs."""
