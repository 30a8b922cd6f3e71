"""The stages: curation, distillation, training, evaluation, report, and the scenes to try them on.

Each is a pure function of its inputs and its resolved configuration, made of plain steps over records
and arrays; only the `pipeline.py` of a stage knows Ray.
"""
