"""A LangGraph agent whose refunds a person approves."""
