"""People's decisions on drafts: how they are kept, what follows from them, and how far reviewers agree."""
