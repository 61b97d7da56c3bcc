#!/usr/bin/env bash
# Builds the docs site into site/; every warning of mkdocs is an error.
set -euo pipefail
cd "$(dirname "$0")/.."

deploy/venv.sh docs
rm -rf .cache/docs
mkdir -p .cache/docs
cp ./*.md LICENSE .cache/docs/
cp -r docs .cache/docs/docs

# Diagrams are drawn by a script that the site carries itself. Without npm they stay text.
mermaid=.cache/mermaid.min.js
if [[ ! -s $mermaid ]] && command -v npm >/dev/null; then
    package=$(cd .cache && npm pack --silent mermaid@11)
    tar -xzOf ".cache/$package" package/dist/mermaid.min.js >"$mermaid"
    rm ".cache/$package"
fi
if [[ -s $mermaid ]]; then
    mkdir -p .cache/docs/assets
    cp "$mermaid" .cache/docs/assets/
fi

NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet --clean
if grep -rnE '(src|href)="https?:[^"]*\.(js|css|woff2?)"' site --include='*.html'; then
    echo "these pages load something from elsewhere" >&2
    exit 1
fi
echo "the docs are in site/index.html"
