"""What everything else stands on: files that no crash tears, locks, possession of folders."""
