"""Reporting: what a result is like, on one page that anybody can open."""
