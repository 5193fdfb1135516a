"""Choosing settings on validation classes: a search over a space, with Optuna.

`space` says what is searched, `measure` what one setting is worth, `study` keeps the trials,
`search` runs them, `report` says what was found. None of them is handed a test row.
"""
