"""Write the page of a battery, battery.html and battery.md, from its findings alone.

| file | what it does |
|---|---|
| `write.py` | puts the page together, and writes its files |
| `words.py` | verdicts, and the sentences on top |
| `tables.py` | the tables |
| `figures.py` | the pictures of a task |
| `web.py` | from the Markdown to one HTML file, with the pictures inside |
"""
