"""Incidents on disk: layout, manifest, store, ledger, retention."""
