// Follows every event and, cut or stopped, goes on where it was: no gap, no repeat.
//
// Usage: node follow.ts [CURSOR_FILE]; KIMBERLITE_URL names the server. No dependencies. Before Node 22.18, first:
// npx -p typescript@5.9 tsc --noCheck --target es2022 --module nodenext follow.ts
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";

const url = (process.env.KIMBERLITE_URL ?? "http://127.0.0.1:7070") + "/v1/events";
const cursorFile = process.argv[2] ?? "follow.cursor";

/** SSE: fields, then an empty line. A frame that was cut has no empty line and is dropped. */
async function* frames(body: ReadableStream<Uint8Array>) {
  const utf8 = new TextDecoder();
  let rest = "";
  for await (const bytes of body) {
    const blocks = (rest + utf8.decode(bytes, { stream: true })).split("\n\n");
    rest = blocks.pop() ?? "";
    for (const block of blocks) {
      const fields = block.split("\n").map((line) => [line.split(": ", 1)[0], line.slice(line.indexOf(": ") + 2)]);
      yield Object.fromEntries(fields) as { event?: string; id?: string; data: string };
    }
  }
}

/** A problem says itself whether coming back makes sense. */
function check(problem: string) {
  if (!JSON.parse(problem).retryable) process.exit((console.error(problem), 1));
}

async function connect() {
  const headers: Record<string, string> = { accept: "text/event-stream" };
  if (existsSync(cursorFile)) headers["last-event-id"] = readFileSync(cursorFile, "utf8");
  const answer = await fetch(url, { headers });
  if (!answer.ok || !answer.body) return check(await answer.text());
  for await (const frame of frames(answer.body)) {
    if (frame.event === "error") check(frame.data);
    if (frame.event === "event") {
      const event = JSON.parse(frame.data);
      console.log(event.position, event.stream, event.type); // your work goes here
    }
    if (frame.id) { // stored after the work: a crash in between repeats one event, and loses none
      writeFileSync(cursorFile + ".new", frame.id);
      renameSync(cursorFile + ".new", cursorFile);
    }
  }
}

(async () => {
  for (;;) {
    await connect().catch((cut) => console.error(String(cut))); // or nobody there
    await new Promise((later) => setTimeout(later, 500));
  }
})();
