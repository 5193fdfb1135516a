"""A trained recognizer behind HTTP: an API, a page, and the limits that keep both standing.

Data flow one way: `settings` → `engine` (the model) → `batching` (one thread with it) → `service`
(what can be asked) → `api`, `page` (how it is asked) → `app` → `run`.
"""
