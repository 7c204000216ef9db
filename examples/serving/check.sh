#!/bin/sh
# A gate for scripts: exits with 0 where the policy says pass to the text of standard input, 1 where it says block or
# review (stricter than the server, which lets review pass, marked), 2 on errors.
# echo '如何泡一杯绿茶？' | sh check.sh && echo passed
# The key (LIBRA_API_KEY) is told by a file descriptor: arguments can be read by everybody on the machine.
set -u
answer=$(python3 -c 'import json, sys; print(json.dumps({"conversations": [{"messages": [{"role": "user", "content": sys.stdin.read()}]}]}))' |
  curl --silent --show-error --fail --max-time 30 "${LIBRA_URL:-http://127.0.0.1:8300}/v1/guard" \
    --header 'Content-Type: application/json' --header @/dev/fd/3 --data-binary @- 3<<KEY
${LIBRA_API_KEY:+Authorization: Bearer $LIBRA_API_KEY}
KEY
) || exit 2
case $(printf '%s' "$answer" | python3 -c 'import json, sys; print(json.load(sys.stdin)["results"][0]["decision"]["action"])') in
  pass) exit 0 ;;
  review | block) exit 1 ;;
  *) exit 2 ;;
esac
