/** The supervisor as people and operators meet it: real processes, killed and stopped. */

import { expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { getPriority } from "node:os";
import { join } from "node:path";
import { freePort } from "../../lib/free-port.ts";
import { startSkein } from "../../scripts/harness.ts";
import { eventually } from "../support/eventually.ts";
import { temporaryFolder } from "../support/folder.ts";
import { isAlive } from "../support/processes.ts";
import { openTalk, runWorkers } from "../support/worker.ts";

test("a first start runs every role in one unit, sends a first message, and leaves nothing behind when stopped", async () => {
  await using skein = await startSkein();
  const pids = skein.pids();
  expect(Object.keys(pids).sort()).toEqual(["all", "redis"]);
  expect(statSync(join(skein.dataDir, "run.json")).mode & 0o077).toBe(0);
  expect(skein.output()).toContain("run skein chat alice");
  expect(skein.output()).toContain("First message: alice to bob, seq 1");
  const talk = await openTalk(skein);
  await talk.say("and a second one");
  expect(await talk.heard()).toEqual([expect.stringContaining("Hello Bob"), "and a second one"]);

  const { dataDir } = skein;
  process.kill(skein.pid, "SIGTERM");
  expect(await skein.exited).toBe(0);
  expect(Object.values(pids).filter(isAlive)).toEqual([]);
  expect(existsSync(join(dataDir, "run.json"))).toBe(false);
});

test("no secret shows in what is printed", async () => {
  await using skein = await startSkein({ env: { SKEIN_LOG_LEVEL: "debug" } });
  await (await openTalk(skein)).say("hello");
  const folder = join(skein.dataDir, "secrets");
  const secrets = readdirSync(folder).map((name) => readFileSync(join(folder, name), "utf8"));
  expect(secrets.length).toBeGreaterThanOrEqual(4);
  for (const secret of secrets) expect(skein.output()).not.toContain(secret);
});

test("a dead unit is started again, and its users go on", async () => {
  await using skein = await startSkein({ roles: ["gateway=2", "logic", "archive", "extlogic"], processes: true });
  const names = ["archive", "extlogic", "gateway", "gateway.2", "logic", "redis"];
  expect(Object.keys(skein.pids()).sort()).toEqual(names);
  expect(skein.urls.length).toBe(2);
  const talk = await openTalk({ url: skein.urls[1]!, serviceKey: skein.serviceKey });
  await talk.say("before");
  for (const name of ["logic", "gateway.2", "archive", "extlogic"]) {
    const pid = skein.pids()[name];
    skein.kill(name, "SIGKILL");
    await eventually(() => expect(skein.pids()[name]).not.toBe(pid));
    await skein.untilReady();
    await talk.say(`after ${name}`);
  }
  expect(await talk.heard()).toContain("after archive");
  // Heavy work yields to what people wait for, started again or not.
  const yielding = names.filter((name) => getPriority(skein.pids()[name]!) > getPriority(process.pid));
  expect(yielding).toEqual(["extlogic"]);
});

test("Redis killed with -9 is back under the running units, with what was acknowledged", async () => {
  await using skein = await startSkein();
  const talk = await openTalk(skein);
  await talk.say("acknowledged");
  const before = skein.pids();
  skein.kill("redis", "SIGKILL");
  await eventually(() => expect(skein.pids().redis).not.toBe(before.redis));
  await skein.untilReady();
  await talk.say("afterwards");
  expect((await talk.heard()).slice(-2)).toEqual(["acknowledged", "afterwards"]);
  expect(skein.pids().all).toBe(before.all);
});

test("a supervisor killed with -9 blocks no start: the next one takes over at once, data and port included", async () => {
  using folder = temporaryFolder("supervisor");
  const options = { dataDir: folder.path, env: { SKEIN_PORT: String(freePort()) } };
  await using first = await startSkein(options);
  const pids = first.pids();
  await (await openTalk(first)).say("kept");
  process.kill(first.pid, "SIGKILL");
  await first.exited;
  await using second = await startSkein(options);
  expect(second.url).toBe(first.url);
  expect(await (await openTalk(second)).heard()).toContain("kept");
  await eventually(() => expect(Object.values(pids).filter(isAlive)).toEqual([]));
});

test("a second start on the same data dir is refused and names the first", async () => {
  await using skein = await startSkein({ roles: ["archive"] });
  const second = await runWorkers([], { SKEIN_DATA_DIR: skein.dataDir, SKEIN_PORT: "0" });
  expect(second.code).toBe(1);
  expect(second.output).toContain(skein.dataDir);
  expect(second.output).toContain(`pid ${skein.pid}`);
  expect(isAlive(skein.pids().archive!)).toBe(true);
});

test("a role that cannot start ends Skein with the reason", async () => {
  using folder = temporaryFolder("supervisor");
  const listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => undefined } });
  const ended = await runWorkers([], { SKEIN_DATA_DIR: folder.path, SKEIN_PORT: String(listener.port) });
  listener.stop(true);
  expect(ended.code).toBe(1);
  expect(ended.output).toContain("cannot start");
  expect(ended.output).toContain(String(listener.port));
  expect(existsSync(join(folder.path, "run.json"))).toBe(false);
});

test("another number of partitions than the first start's is refused", async () => {
  using folder = temporaryFolder("supervisor");
  const first = await startSkein({ dataDir: folder.path, roles: ["archive"] });
  await first.stop();
  const second = await runWorkers(["archive"], { SKEIN_DATA_DIR: folder.path, SKEIN_PARTITIONS: "8" });
  expect(second.code).toBe(1);
  expect(second.output).toContain("SKEIN_PARTITIONS");
  expect(second.output).toContain("16");
});

test("a data dir that cannot be written is named", async () => {
  const { code, output } = await runWorkers([], { SKEIN_DATA_DIR: "/proc/skein" });
  expect(code).toBe(1);
  expect(output).toContain("SKEIN_DATA_DIR /proc/skein cannot be written");
  expect(output).not.toContain("at ");
});

test.each([
  { args: ["gatway"], env: {}, says: "there is no role gatway" },
  { args: ["gateway=none"], env: {}, says: "instances must be a whole number" },
  { args: ["--proceses"], env: {}, says: "--processes" },
  { args: [], env: { SKEIN_PROT: "1", SKEIN_ACK_LEVEL: "sometimes" }, says: "SKEIN_PORT" },
])("a mistake is told before anything starts: $args $env", async ({ args, env, says }) => {
  using folder = temporaryFolder("supervisor");
  const dataDir = join(folder.path, "data");
  const { code, output } = await runWorkers(args, { SKEIN_DATA_DIR: dataDir, ...(env as Record<string, string>) });
  expect(code).not.toBe(0);
  expect(output).toContain(says);
  expect(existsSync(dataDir)).toBe(false);
});

test("--help says how to use it and starts nothing", async () => {
  using folder = temporaryFolder("supervisor");
  const dataDir = join(folder.path, "data");
  const { code, output } = await runWorkers(["--help"], { SKEIN_DATA_DIR: dataDir });
  expect(code).toBe(0);
  expect(output).toContain("Usage: bun run workers");
  expect(existsSync(dataDir)).toBe(false);
});

test("a killed `bun run workers` takes its supervisor with it", async () => {
  using folder = temporaryFolder("supervisor");
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "../../scripts/workers.ts"), "archive"], {
    env: { ...process.env, SKEIN_DATA_DIR: folder.path, SKEIN_LOG_LEVEL: "warn" },
    stdin: "ignore",
    stdout: "ignore",
    stderr: "ignore",
  });
  const run = () => JSON.parse(readFileSync(join(folder.path, "run.json"), "utf8")) as { pid: number; ready: boolean };
  await eventually(() => expect(run().ready).toBe(true));
  const { pid } = run();
  expect(pid).not.toBe(child.pid);
  child.kill("SIGKILL");
  await eventually(() => expect(isAlive(pid)).toBe(false));
});
