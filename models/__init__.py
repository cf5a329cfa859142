"""The language of Hengdan: values, tables, words. No I/O."""
