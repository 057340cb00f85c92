"""Composes engine objects from a config, trains, measures, tracks and replays. Nothing in ``engine`` knows of it."""
