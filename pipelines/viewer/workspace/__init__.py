"""The pages of a workspace: its runs, its outputs, and the curves of its trainings."""
