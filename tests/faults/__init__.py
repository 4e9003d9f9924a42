"""Runs that are killed, starved or fed with damaged files go on, or end in one clear line."""
