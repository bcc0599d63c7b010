# On the host of a primary that is cut off: insert rows until the server is gone, and print those that were acknowledged.
for number in $(seq 1 100000); do
  runuser -u postgres -- psql -XqAt -d flux -c "INSERT INTO $1 VALUES ('isolated', $number) RETURNING seq" 2>/dev/null || break
done
