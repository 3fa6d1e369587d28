"""Run entries on prompts and sum up.

``prepare`` loads the model and chooses the entries, ``bench`` runs them through ``engine``, ``result_store`` keeps each
run in the bench's folder, ``scoring`` takes measures of quality, ``summary`` makes the ``results``.
"""
