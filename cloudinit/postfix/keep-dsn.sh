#!/bin/sh
# Keep one report of non-delivery as a file: keep-dsn FOLDER NAME <message. Run by Postfix's pipe(8) as user `mail`.
# 75 (EX_TEMPFAIL) makes Postfix try again later.
set -u
umask 027
file="$1/$2.eml"
cat >"$file.new" || exit 75
mv "$file.new" "$file" || exit 75
