"""What a person types. One module for each noun; nothing here imports another before it is asked
for, so that `kythera --help` answers at once and `kythera up` stays small."""
