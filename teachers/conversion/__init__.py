"""Official checkpoints of teachers, read without the official programs and put into transformers' format."""

from teachers.conversion.convert import ConvertedTeacher, convert_official, looks_official

__all__ = ["ConvertedTeacher", "convert_official", "looks_official"]
