"""The signal: how a teacher's opinion of tokens becomes a loss."""
