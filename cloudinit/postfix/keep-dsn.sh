#!/bin/sh
# Keep one report of non-delivery as a file: keep-dsn FOLDER NAME <message. Run by Postfix's pipe(8) as user `mail`.
# 75 (EX_TEMPFAIL) makes Postfix try again later.
set -u
umask 027
# NAME is a queue id, and short ones come again: a microsecond of any second, and an inode. A report that is kept twice is
# better than one that is lost.
file="$1/$2-$(date +%s%N).eml"
if ! cat >"$file.new" || ! mv "$file.new" "$file"; then
    rm -f "$file.new"
    exit 75
fi
