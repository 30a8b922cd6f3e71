"""The card of a corpus: what it holds, in words, tables and pictures, and as metadata for programs."""

from pipelines.curation.cards.files import CARD_NAME, card_files, write_card

__all__ = ["CARD_NAME", "card_files", "write_card"]
