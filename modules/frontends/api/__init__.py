"""HTTP routes: events followed by id, picture files, health."""
