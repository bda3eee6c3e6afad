"""What a commentator's words are worth: events named, how soon, how often wrongly; and the controls beside them."""
