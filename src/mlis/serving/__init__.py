"""A trained recognizer behind HTTP: an API and a page, with limits on what requests can cost.

Data flow one way: `settings` → `engine` (the model) → `batching` (the thread that runs it) →
`service` (what can be asked) → `bodies`, `api` (how it is asked) → `app` → `run`.
"""
