"""Parcels that are weighed and labelled, by steps on several machines."""
