// Appends and reads through the generated types: what the document promises has to compile, and to come back.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { paths } from "./kimberlite.js";

// The media types that this client reads; others (NDJSON, SSE) are for readers written by hand.
type Media = "application/json" | "application/problem+json";
const client = createClient<paths, Media>({ baseUrl: process.env.KIMBERLITE_URL });
const stream = `generated/typescript-${process.pid}`;
const data = { list: [1, 2.5, null], text: "grün" };

const appended = await client.POST("/v1/streams/{stream}/events", {
  params: { path: { stream } },
  body: { events: [{ type: "made", data, tags: ["generated"] }, { type: "checked" }], expected: "none" },
});
assert.equal(appended.response.status, 201, JSON.stringify(appended.error));
assert.equal(appended.data?.last_version, 1);

const read = await client.GET("/v1/streams/{stream}/events", {
  params: { path: { stream }, query: { direction: "backward", limit: 2 } },
});
assert.equal(read.response.status, 200, JSON.stringify(read.error));
assert.deepEqual(read.data?.events.map((event) => event.type), ["checked", "made"]);
assert.deepEqual(read.data?.events[1]?.data, data);

const refused = await client.POST("/v1/streams/{stream}/events", {
  params: { path: { stream } },
  body: { events: [{ type: "made" }], expected: { version: 7 } },
});
assert.equal(refused.response.status, 412);
assert.equal(refused.error?.status, 412);
console.log("TypeScript: appended, read, refused");
