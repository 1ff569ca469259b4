"""From a configuration to an engine, to the folder of an exported model, or to a report of its graph."""
