"""Worlds in one process, on virtual time, from a seed: the deciding code under random histories."""
