"""The plugin for SGLang: page-sparse decoding in an engine that nobody edited."""
