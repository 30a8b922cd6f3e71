"""Examines a checkpoint: questions, answers, verdicts and scores with intervals."""
