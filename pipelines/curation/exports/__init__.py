"""Exports of a corpus into layouts that other programs read; shard by shard, into a new folder."""
