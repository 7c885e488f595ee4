"""Easel's engine and fronts, one room per folder; docs/architecture.md is the map."""
