/** The command line as a person or a script uses it: as a process, on a Skein that runs and on none. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { childEnvironment } from "../../lib/config.ts";
import { type PrivateSkein, startSkein } from "../../scripts/harness.ts";
import { eventually } from "../support/eventually.ts";

const empty = mkdtempSync(join(tmpdir(), "skein-test-cli-"));
let skein: PrivateSkein;

beforeAll(async () => {
  skein = await startSkein({ roles: ["gateway", "logic", "archive"] });
});
afterAll(async () => {
  await skein?.stop();
  rmSync(empty, { recursive: true, force: true });
});

const start = (dataDir: string, args: readonly string[]) =>
  Bun.spawn([process.execPath, "scripts/skein/main.ts", ...args], {
    env: childEnvironment({ SKEIN_DATA_DIR: dataDir }, "none"),
    stdin: "pipe",
    stdout: "pipe",
    stderr: "pipe",
  });

async function run(dataDir: string, ...args: string[]) {
  const child = start(dataDir, args);
  child.stdin.end();
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { out, err, code };
}

test.each([
  ...[
    "token",
    "layers",
    "topics",
    "doctor",
    "chat",
    "replay",
    "groups",
    "dead-letters",
    "half",
    "delayed",
    "trace",
  ].map((command) => `skein ${command}`),
  ...["groups seek", "dead-letters redrive"],
])("%s has --help", async (command) => {
  const { out, code } = await run(empty, ...command.replace("skein ", "").split(" "), "--help");
  expect(out).toContain(command);
  expect(code).toBe(0);
});

test.each(["token ann", "topics", "chat ann"])("%s says in one line that nothing runs", async (line) => {
  const { out, err, code } = await run(empty, ...line.split(" "));
  expect(out).toBe("");
  expect(err.trim().split("\n")).toHaveLength(1);
  expect(err).toContain("bun run workers");
  expect(code).toBe(1);
});

test("wrong arguments are named", async () => {
  expect((await run(empty, "replay", "no-such.log")).err).toContain("no-such.log");
  expect((await run(empty, "replay", import.meta.path, "--speed", "fast")).err).toContain("--speed");
  expect((await run(empty, "replay", import.meta.path, "--kill", "everything")).err).toContain("everything");
  const refused = await run(skein.dataDir, "token", "a:b");
  expect(refused.err).toContain("a:b");
  expect(refused.code).toBe(1);
});

test("layers prints the graph without a running Skein", async () => {
  const { out, code } = await run(empty, "layers");
  expect(out).toContain("── RPC ──► logic");
  expect(code).toBe(0);
  expect(Object.keys(JSON.parse((await run(empty, "layers", "--json")).out))).toContain("archive");
});

test("token mints one that the API takes", async () => {
  const { out, code } = await run(skein.dataDir, "token", "ann", "--ttl", "60");
  expect(code).toBe(0);
  const response = await fetch(`${skein.url}/v1/conversations`, { headers: { authorization: `Bearer ${out.trim()}` } });
  expect(response.status).toBe(200);
  const minted = JSON.parse((await run(skein.dataDir, "token", "ann", "--json")).out);
  expect(minted).toMatchObject({ user: "ann", token: expect.any(String) });
});

test("topics tells the groups of the chat's events", async () => {
  const described = JSON.parse((await run(skein.dataDir, "topics", "--json")).out);
  const events = described.find(({ topic }: { topic: string }) => topic === "im.events");
  expect(events.groups.map(({ group }: { group: string }) => group)).toEqual(
    expect.arrayContaining(["archive", "delivery"]),
  );
  expect((await run(skein.dataDir, "topics")).out).toContain("im.events");
});

test("doctor finds a running Skein in order, and says what is missing where there is none", async () => {
  // What stands still for seconds under its hands is not in order.
  await eventually(async () => {
    const well = await run(skein.dataDir, "doctor", "--json");
    expect(JSON.parse(well.out).filter(({ ok }: { ok: boolean }) => !ok)).toEqual([]);
    expect(well.code).toBe(0);
  });
  const ill = await run(empty, "doctor");
  expect(ill.out).toContain("FAIL  skein");
  expect(ill.code).toBe(1);
});

test("two terminals chat with each other", async () => {
  const alice = start(skein.dataDir, ["chat", "alice"]);
  const bob = start(skein.dataDir, ["chat", "bob"]);
  const [heardByAlice, heardByBob] = [listen(alice.stdout), listen(bob.stdout)];
  await eventually(() => expect(heardByAlice()).toContain("Talking to bob"));
  await eventually(() => expect(heardByBob()).toContain("Talking to alice"));
  alice.stdin.write("hello bob \u001b[2J\n");
  await alice.stdin.flush();
  await eventually(() => expect(heardByBob()).toMatch(/alice: hello bob \uFFFD\[2J\n/), 20_000);
  bob.stdin.write("hello alice\n");
  await bob.stdin.flush();
  await eventually(() => expect(heardByAlice()).toContain("bob: hello alice"));
  // What is written last is committed although the input ends at once.
  alice.stdin.write("bye\n");
  alice.stdin.end();
  expect(await alice.exited).toBe(0);
  await eventually(() => expect(heardByBob()).toContain("alice: bye"));
  bob.stdin.end();
  expect(await bob.exited).toBe(0);
});

test("lines from a pipe are sent, though they and their end are there before the chat is", async () => {
  const bob = start(skein.dataDir, ["chat", "bob"]);
  const heardByBob = listen(bob.stdout);
  const alice = start(skein.dataDir, ["chat", "alice"]);
  alice.stdin.write("piped one\npiped two\n");
  alice.stdin.end();
  expect(await alice.exited).toBe(0);
  await eventually(() => expect(heardByBob()).toMatch(/alice: piped one\n.*alice: piped two\n/));
  bob.stdin.end();
  expect(await bob.exited).toBe(0);
});

function listen(stream: ReadableStream<Uint8Array>): () => string {
  let heard = "";
  const decoder = new TextDecoder();
  const collect = async () => {
    for await (const chunk of stream) heard += decoder.decode(chunk, { stream: true });
  };
  void collect();
  return () => heard;
}
