"""What everything else stands on: records, parts, objects by name, the console."""
