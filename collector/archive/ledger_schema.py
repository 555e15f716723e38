# ruff: noqa: S608 - statements are composed of constants
"""The ledger's tables, and what those of earlier releases lack."""

from __future__ import annotations

import sqlite3

from collector.model.case import PART_FATES, Fate
from collector.model.owners import ROOT, UNKNOWN

OPEN = ", ".join(f"'{fate}'" for fate in Fate if fate.open)
PARTS = ", ".join(f"'{fate}'" for fate in PART_FATES)
VERSION = 2
"""Of the tables, in the file's ``user_version``; 0 in those of earlier releases."""

TABLES = """
CREATE TABLE IF NOT EXISTS markers (
    id INTEGER PRIMARY KEY,
    identity TEXT UNIQUE,
    at_s REAL NOT NULL,
    trigger TEXT NOT NULL,
    kind TEXT NOT NULL,
    uid INTEGER,
    executable TEXT,
    fate TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    pipeline TEXT NOT NULL DEFAULT '',
    case_id INTEGER NOT NULL,
    incident TEXT,
    tries INTEGER NOT NULL DEFAULT 0,
    marker BLOB NOT NULL,
    owner TEXT NOT NULL DEFAULT '',
    bytes INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS counted (
    id INTEGER PRIMARY KEY,
    minute INTEGER NOT NULL,
    owner TEXT NOT NULL,
    trigger TEXT NOT NULL,
    fate TEXT NOT NULL,
    reason TEXT NOT NULL,
    count INTEGER NOT NULL,
    UNIQUE (owner, minute, trigger, fate, reason)
);
CREATE TABLE IF NOT EXISTS passed (id INTEGER PRIMARY KEY, identity INTEGER NOT NULL UNIQUE, owner TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, text TEXT NOT NULL, at_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS lost (trigger TEXT PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS totals (fate TEXT PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS spent (
    case_id INTEGER PRIMARY KEY, at_s REAL NOT NULL, executable TEXT NOT NULL, uid INTEGER, size_bytes INTEGER NOT NULL,
    owner TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS over_budget (case_id INTEGER PRIMARY KEY);
"""
INDEXES = """
CREATE INDEX IF NOT EXISTS markers_by_fate ON markers (fate);
CREATE INDEX IF NOT EXISTS markers_by_case ON markers (case_id);
CREATE INDEX IF NOT EXISTS markers_by_owner ON markers (owner, id, bytes);
CREATE INDEX IF NOT EXISTS passed_by_owner ON passed (owner);
"""
# The totals are those of all markers ever, with or without a row: counting 100,000 rows takes 10 ms.
ADD = "ON CONFLICT (fate) DO UPDATE SET count = count + excluded.count"
TRIGGERS = {
    "marker_entered": f"AFTER INSERT ON markers BEGIN INSERT INTO totals VALUES (new.fate, 1) {ADD}; END",
    "fate_changed": "AFTER UPDATE OF fate ON markers WHEN old.fate <> new.fate BEGIN"
    " UPDATE totals SET count = count - 1 WHERE fate = old.fate;"
    f" INSERT INTO totals VALUES (new.fate, 1) {ADD}; END",
}
OWNER_BY_UID = f"CASE WHEN uid IS NULL THEN '{UNKNOWN}' WHEN uid = 0 THEN '{ROOT}' ELSE 'uid ' || uid END"
COUNT_FATES = f"INSERT INTO totals SELECT fate, count(*) FROM {{rows}} WHERE 1 GROUP BY fate {ADD};"
MIGRATION = f"""
ALTER TABLE markers ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE markers ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
UPDATE markers SET bytes = length(marker), owner = {OWNER_BY_UID};
{COUNT_FATES.format(rows="markers")}
"""
MIGRATION_OF_SPENT = "ALTER TABLE spent ADD COLUMN owner TEXT NOT NULL DEFAULT '';"


def create_triggers(db: sqlite3.Connection) -> None:
    for name, body in TRIGGERS.items():
        db.execute(f"CREATE TRIGGER IF NOT EXISTS {name} {body}")
