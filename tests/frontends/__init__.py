"""Tests of the page and the routes."""
