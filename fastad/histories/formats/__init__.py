"""Histories in formats of others: Minari, Parquet, pandas, and HDF5 as XLand-100B has it."""
