#!/usr/bin/env bash
# What Kimberlite does, with curl alone. Every answer's status is checked, and what matters in its body.
# Usage: examples/curl.sh    (KIMBERLITE_URL names the server; streams have names of their own in every run)
set -euo pipefail

url=${KIMBERLITE_URL:-http://127.0.0.1:7070}
run=tour-$(date +%s)-$$
work=$(mktemp -d)
follower=
trap '[[ -z $follower ]] || kill "$follower"; rm -rf "$work"' EXIT

fail() { echo "FAILED: $*" >&2; exit 1; }

# call STATUS METHOD PATH [curl arguments]: leaves the answer in $body and its head in $head.
call() {
  local expected=$1 method=$2 path=$3 status
  shift 3
  status=$(curl --silent --show-error --max-time 30 --request "$method" --output "$work/body" --dump-header "$work/head" \
    --write-out '%{http_code}' "$@" "$url$path")
  body=$(tr -d '\0' <"$work/body") head=$(<"$work/head") # a leaf is bytes, not text
  [[ $status == "$expected" ]] || fail "$method $path: $status, not $expected: $body"
  echo "  $status $method $path"
}
json() { call "$1" "$2" "$3" --header 'Content-Type: application/json' --data "$4" "${@:5}"; }
has() { local part; for part; do [[ $body == *"$part"* ]] || fail "no $part in: $body"; done; }
has_header() { grep --quiet --ignore-case "^$1" "$work/head" || fail "no header $1 in: $head"; }
number() { [[ $body =~ \"$1\":([0-9]+) ]] || fail "no number $1 in: $body"; echo "${BASH_REMATCH[1]}"; }
text() { [[ $body =~ \"$1\":\"([^\"]*)\" ]] || fail "no text $1 in: $body"; echo "${BASH_REMATCH[1]}"; }
# events MARK…: the data of the events in $body are these, in this order. Each event here carries {"n":"MARK"}.
events() {
  local found
  found=$(grep --only-matching '"n":"[^"]*"' "$work/body" | cut -d'"' -f4 | paste -sd' ') || found=
  [[ $found == "$*" ]] || fail "events [$found], not [$*], in: $body"
}

order=$run-order seat=$run-seat bill=$run-bill

echo 'append, with every form of expected'
json 201 POST "/v1/streams/$order/events" '{"events":[{"type":"order-placed","data":{"n":"a"},"tags":["'"$run"'","sku:A7"],
  "occurred_at":"2026-01-10T08:00:00Z"}],"expected":"none"}'
has "\"stream\":\"$order\"" '"first_version":0' '"last_version":0' '"hash":"'
has_header "location: "
first=$(number first_position)
json 201 POST "/v1/streams/$order/events" '{"events":[{"type":"order-paid","data":{"n":"b"},"tags":["'"$run"'"],
  "metadata":{"source":"curl"},"occurred_at":"2026-01-11T08:00:00Z"}],"expected":{"version":0}}'
json 201 POST "/v1/streams/$order/events" '{"events":[{"type":"order-packed","data":{"n":"c"},"tags":["'"$run"'"]}],"expected":"exists"}'
sleep 0.01 # so that the next event's commit time is another
json 201 POST "/v1/streams/$order/events" '{"events":[{"type":"order-shipped","data":{"n":"d"},"tags":["'"$run"'"]}],"expected":"any"}'
shipped=$(text time)
json 201 POST "/v1/streams/$order/events" '{"events":[{"type":"order-received","data":{"n":"e"},"tags":["'"$run"'"]}]}' \
  --header 'If-Match: "3"'
json 201 POST "/v1/streams/$seat/events" '{"events":[{"type":"seat-offered","data":{"n":"f"},"tags":["'"$run"'"]}]}' \
  --header 'If-None-Match: *'
json 412 POST "/v1/streams/$order/events" '{"events":[{"type":"x"}],"expected":"none"}'
json 412 POST "/v1/streams/$order/events" '{"events":[{"type":"x"}],"expected":{"version":3}}'
has_header "content-type: application/problem+json"
json 412 POST "/v1/streams/$bill/events" '{"events":[{"type":"x"}],"expected":"exists"}'
json 412 POST "/v1/streams/$order/events" '{"events":[{"type":"x"}]}' --header 'If-None-Match: *'
json 400 POST "/v1/streams/$order/events" '{"events":[{"type":"x"}],"expected":"exists"}' --header 'If-Match: "4"'
json 400 POST "/v1/streams/$order/events" '{"events":[]}'
json 422 POST "/v1/streams/$order/events" '{"events":[{"type":"x","subjects":["customer-42"]}]}'
has 'subjects_unavailable'

echo 'say it twice: an idempotency key, an event id'
bill_event='{"events":[{"type":"bill-sent","data":{"n":"g"},"tags":["'"$run"'"]}]}'
json 201 POST "/v1/streams/$bill/events" "$bill_event" --header "Idempotency-Key: $run"
receipt=$body
json 200 POST "/v1/streams/$bill/events" "$bill_event" --header "Idempotency-Key: $run"
has_header "idempotent-replay: true"
[[ $body == "$receipt" ]] || fail "the replay says $body, the first receipt $receipt"
json 422 POST "/v1/streams/$bill/events" '{"events":[{"type":"bill-paid"}]}' --header "Idempotency-Key: $run"
id=$(printf '0199a2b4-0000-7000-8000-%012x' "$((RANDOM * 32768 + RANDOM))")
json 201 POST "/v1/streams/$bill/events" '{"events":[{"type":"bill-paid","id":"'"$id"'","data":{"n":"h"},"tags":["'"$run"'"]}]}'
json 200 POST "/v1/streams/$bill/events" '{"events":[{"type":"bill-paid","id":"'"$id"'","data":{"n":"h"},"tags":["'"$run"'"]}]}'
json 409 POST "/v1/streams/$bill/events" '{"events":[{"type":"bill-paid","id":"'"$id"'","data":{"n":"other"}}]}'
has 'event_id_conflict'

echo 'three streams in one transaction, or none'
json 201 POST /v1/transactions '{"appends":[
  {"stream":"'"$run"'-t1","events":[{"type":"moved","data":{"n":"i"},"tags":["'"$run"'"]}],"expected":"none"},
  {"stream":"'"$run"'-t2","events":[{"type":"moved","data":{"n":"j"},"tags":["'"$run"'"]}]},
  {"stream":"'"$run"'-t3","events":[{"type":"moved","data":{"n":"k"},"tags":["'"$run"'"]}]}],
  "conditions":[{"stream":"'"$order"'","expected":{"version":4}}]}'
has "$run-t1" "$run-t2" "$run-t3"
json 412 POST /v1/transactions '{"appends":[
  {"stream":"'"$run"'-t1","events":[{"type":"moved"}],"expected":"none"},
  {"stream":"'"$run"'-t4","events":[{"type":"moved"}]},
  {"stream":"'"$order"'","events":[{"type":"moved"}],"expected":{"version":17}}],
  "conditions":[{"stream":"'"$run"'-nowhere","expected":"exists"},
    {"fail_if_events_match":{"items":[{"types":["seat-offered"],"tags":["'"$run"'"]}]}}]}'
has "$run-t1" "$order" "$run-nowhere" 'fail_if_events_match' # every condition that failed, not the first
call 404 GET "/v1/streams/$run-t4"

echo 'take a seat once: fail_if_events_match'
json 200 POST /v1/transactions '{"appends":[],"conditions":[{"stream":"'"$seat"'","expected":"exists"}]}'
read_at=$(number position)
take_seat='{"appends":[{"stream":"'"$seat"'","events":[{"type":"seat-taken","data":{"n":"l"},"tags":["'"$run"'","seat:12A:'"$run"'"]}]}],
  "conditions":[{"fail_if_events_match":{"items":[{"types":["seat-taken"],"tags":["seat:12A:'"$run"'"]}]},"after":'"$read_at"'}]}'
json 201 POST /v1/transactions "$take_seat"
json 412 POST /v1/transactions "$take_seat"

echo 'read'
call 200 GET "/v1/streams/$order/events"
events a b c d e
has '"head":4' '"next":null'
call 200 GET "/v1/streams/$order/events?direction=backward&limit=2"
events e d
call 200 GET "$(text next)"
events c b
call 200 GET "/v1/streams/$order/events?from=2&type=order-packed&type=order-received"
events c e
call 200 GET "/v1/streams/$order"
has_header 'etag: "4"'
call 404 GET "/v1/streams/$run-nowhere/events"
call 400 GET "/v1/streams/$order/events?colour=red"
call 200 GET "/v1/streams?prefix=$run"
has "\"$order\"" "\"$seat\"" "\"$bill\"" "\"$run-t3\""
call 200 GET "/v1/events/$first"
events a

echo 'filter'
call 200 GET "/v1/events?tag=$run"
events a b c d e f g h i j k l
call 200 GET "/v1/events?tag=$run&direction=backward&limit=3"
events l k j
call 200 GET "/v1/events?tag=$run&type=order-paid&type=moved"
events b i j k
call 200 GET "/v1/events?stream_prefix=$run-t"
events i j k
call 200 GET "/v1/events?tag=$run&tag=sku:A7"
events a
call 200 GET "/v1/events?stream_prefix=$order&from_time=$shipped"
events d e
call 200 GET "/v1/events?tag=$run&occurred_from=2026-01-11T00:00:00Z&occurred_to=2026-01-12T00:00:00Z"
events b

echo 'page through the whole log by next'
pages=0 path='/v1/events?limit=7' total=0 last=-1
while [[ $path ]]; do
  call 200 GET "$path" >"$work/said"
  grep --only-matching '"position":[0-9]*' "$work/body" | cut -d: -f2 >"$work/positions"
  while read -r position; do
    ((position > last)) || fail "position $position after $last"
    last=$position total=$((total + 1))
  done <"$work/positions"
  pages=$((pages + 1))
  if [[ $body == *'"next":null'* ]]; then path=; else path=$(text next); fi
done
echo "  $total events on $pages pages"
((total >= 12)) || fail "only $total events"

echo 'follow over SSE, cut, resume'
# follow FILE [curl arguments]: frames of this run's events go to FILE until stopped.
follow() {
  curl --silent --no-buffer --max-time 60 --header 'Accept: text/event-stream' "${@:2}" "$url/v1/events?tag=$run" >"$1" &
  follower=$!
}
# stop FILE MARK: cuts the connection once MARK has come.
stop() {
  local tries
  for ((tries = 0; ; tries++)); do
    if grep --quiet "\"n\":\"$2\"" "$1"; then break; fi
    ((tries < 100)) || fail "no event $2 in ten seconds: $(<"$1")"
    sleep 0.1
  done
  kill "$follower"
  wait "$follower" || [[ $? == 143 ]]
  follower=
}
follow "$work/frames1"
stop "$work/frames1" l
last_id=$(grep '^id: ' "$work/frames1" | tail -n 1 | cut -c5- | tr -d '\r')
json 201 POST "/v1/streams/$order/events" '{"events":[{"type":"order-rated","data":{"n":"m"},"tags":["'"$run"'"]}]}'
follow "$work/frames2" --header "Last-Event-ID: $last_id"
json 201 POST "/v1/streams/$order/events" '{"events":[{"type":"order-closed","data":{"n":"o"},"tags":["'"$run"'"]}]}'
stop "$work/frames2" o
cat "$work/frames1" "$work/frames2" >"$work/body"
body=$(<"$work/body")
events a b c d e f g h i j k l m o
has 'event: caught-up'
call 409 GET "/v1/events?after=0.ffffffff"
has '"code":"diverged"'

echo 'bulk load NDJSON'
for n in 1 2 3; do
  printf '{"stream":"%s-bulk","type":"measured","id":"0199a2b4-%04x-7000-8000-%012x","data":{"n":"p%s"},"tags":["%s"]}\n' \
    "$run" "$((RANDOM))" "$((RANDOM * 32768 + RANDOM))" "$n" "$run"
done >"$work/bulk"
call 200 POST /v1/events --header 'Content-Type: application/x-ndjson' --data-binary "@$work/bulk"
has '"lines":[1,3]'
call 200 POST /v1/events --header 'Content-Type: application/x-ndjson' --data-binary "@$work/bulk"
call 200 GET "/v1/streams/$run-bulk/events"
events p1 p2 p3
call 200 GET "/v1/streams/$run-bulk/events" --header 'Accept: application/x-ndjson'
events p1 p2 p3
printf '{"stream":"%s-bulk","type":"measured"}\n{"stream":""}\n{"stream":"%s-bulk","type":"late"}\n' "$run" "$run" >"$work/bulk"
call 200 POST /v1/events --header 'Content-Type: application/x-ndjson' --data-binary "@$work/bulk"
has '"lines":[1,1]' '"lines":[2,2],"problem":{'
call 200 GET "/v1/streams/$run-bulk"
has '"version":3' # nothing after the refused line

echo 'compressed bodies'
printf '{"events":[{"type":"packed","data":{"n":"r"}}]}' | gzip >"$work/packed"
call 201 POST "/v1/streams/$run-packed/events" --header 'Content-Type: application/json' --header 'Content-Encoding: gzip' \
  --data-binary "@$work/packed"
call 400 POST "/v1/streams/$run-packed/events" --header 'Content-Type: application/json' --header 'Content-Encoding: zstd' \
  --data-binary "@$work/packed"
call 415 POST "/v1/streams/$run-packed/events" --header 'Content-Type: application/json' --header 'Content-Encoding: br' \
  --data-binary "@$work/packed"
call 200 GET "/v1/streams/$run-packed/events"
events r

echo 'CloudEvents, in and out'
cloud='{"specversion":"1.0","id":"A-1","source":"/curl/'"$run"'","type":"noted","time":"2026-01-10T08:00:00Z","region":"north","data":{"n":"s"}}'
call 201 POST "/v1/streams/$run-cloud/events" --header 'Content-Type: application/cloudevents+json' --data "$cloud"
call 200 POST "/v1/streams/$run-cloud/events" --header 'Content-Type: application/cloudevents+json' --data "$cloud" # the same source and id
call 201 POST "/v1/streams/$run-cloud/events" --header 'Content-Type: application/cloudevents-batch+json' \
  --data '[{"specversion":"1.0","id":"A-2","source":"/curl/'"$run"'","type":"noted","data_base64":"AP8="}]'
call 200 GET "/v1/streams/$run-cloud/events" --header 'Accept: application/cloudevents-batch+json'
has '"id":"A-1"' '"region":"north"' '"data":{"n":"s"}' '"data_base64":"AP8="' "\"kimberlitestream\":\"$run-cloud\""

echo 'records, and what their hashes cover'
call 200 GET "/v1/records/$first"
has '"kind":"event"' '"commitment":"'
call 200 GET "/v1/records/$first/leaf"
has_header 'content-type: application/octet-stream'
cp "$work/body" "$work/leaf"
call 200 GET "/v1/records/$first/opening"
has '"salt":"' '"names":['
if command -v sha256sum >/dev/null; then
  [[ $(text hash) == "$({ printf '\0'; cat "$work/leaf"; } | sha256sum | cut -d' ' -f1)" ]] || fail "another hash than that of the leaf"
fi
call 200 GET "/v1/events/$first/leaf"
cmp "$work/leaf" "$work/body" || fail 'the leaf of the event is that of the record'
call 200 GET "/v1/events/$first/opening"

echo 'what a stranger checks it with'
call 200 GET "/v1/records/$first/proof"
has 'c2sp.org/tlog-proof@v1' "index $first"
call 200 GET "/v1/events/$first/proof"
call 200 GET /v1/log/checkpoint
has_header 'content-type: text/plain; charset=utf-8'
call 200 GET /v1/log/keys
has '"vkey":"' '"from":0' '"log_id":"'
call 200 GET '/v1/log/consistency?from=1'
call 200 GET /v1/log/tile/0/000.p/1
call 200 GET /v1/log/tile/entries/000.p/1
call 404 GET /v1/log/tile/7/000
json 201 POST "/v1/streams/$run-proved/events" '{"events":[{"type":"noted"}]}' --header 'Prefer: return=receipt'
has '"proof":"c2sp.org/tlog-proof@v1'
has_header 'preference-applied: return=receipt'
call 200 POST /v1/log/keys
call 404 GET /v1/records/9007199254740991

echo 'a link: a GET that needs no headers'
json 201 POST /v1/links '{"path":"/v1/events?tag='"$run"'&limit=2","ttl_s":60}'
link=$(text url)
call 200 GET "$link"
events a b
call 401 GET "${link/limit=2/limit=3}"
call 401 DELETE "$link"
json 400 POST /v1/links '{"path":"/v1/nowhere"}'
json 422 POST /v1/links '{"path":"/v1/events","ttl_s":3601}'

echo 'ask in SQL, as it is and as it was'
json 200 POST /v1/query '{"sql":"SELECT count(*) AS n FROM events WHERE stream = $1","params":["'"$seat"'"]}'
has '"columns":[{"name":"n","type":"BIGINT"}],"rows":[['
json 200 POST /v1/query '{"sql":"SELECT position FROM events AS OF POSITION 1 ORDER BY position","limit":1}'
next=$(text next)
call 200 GET "$next"
has '"next":null'
json 400 POST /v1/query '{"sql":"SELECT * FROM events FOR UPDATE"}'
has '"code":"unsupported_sql"'

echo 'a backup, to a folder of the machine that the server runs on'
json 202 POST /v1/backups '{"folder":"'"$work"'/backup"}'
has_header 'location: /v1/backups/'
backup=$(text id)
while call 200 GET "/v1/backups/$backup" && has '"problem":null' && [[ $(text status) == running ]]; do sleep 0.1; done
has '"status":"done"'
call 200 GET /v1/backups
has "\"id\":\"$backup\""
call 204 DELETE "/v1/backups/$backup"
json 400 POST /v1/backups '{"folder":"not/absolute"}'

echo 'health, metrics, the document'
call 200 GET /health/live
call 200 GET /health/ready
has '"status":"ok"'
call 200 GET /metrics
has 'kimberlite_events_appended_total' '# EOF'
call 200 GET /openapi.json
has '"openapi": "3.1.0"'
call 200 GET /docs

echo 'delete a stream'
call 412 DELETE "/v1/streams/$seat" --header 'If-Match: "0"'
call 204 DELETE "/v1/streams/$seat" --header 'If-Match: "1"'
call 410 GET "/v1/streams/$seat/events"
json 410 POST "/v1/streams/$seat/events" '{"events":[{"type":"seat-offered"}]}'
call 200 GET "/v1/events?stream_prefix=$seat"
has '"stream_deleted":true'
events f l
json 201 POST "/v1/streams/$seat/events?recreate=true" '{"events":[{"type":"seat-offered","data":{"n":"q"}}]}'
has '"first_version":2'

echo "everything is as it should be"
