/** Set-up on machines that lack something: a PATH of our own with stand-ins for the system's tools stands for the machine. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { eventually } from "../support/eventually.ts";

const SETUP = join(import.meta.dir, "../../scripts/setup.ts");

let folder: string;
let bin: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "skein-test-setup-"));
  bin = join(folder, "bin");
  mkdirSync(bin);
  for (const tool of ["sh", "chmod", "cat"]) symlinkSync(Bun.which(tool)!, join(bin, tool));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

test("says nothing and is quick when nothing is missing", async () => {
  provide("redis-server", 'echo "Redis server v=7.0.15 sha=00000000:0"');
  const begun = performance.now();
  expect(await setUp()).toEqual({ code: 0, said: "" });
  // On a busy machine; an installation takes longer even on one that is not.
  expect(performance.now() - begun).toBeLessThan(8_000);
});

test("takes valkey-server for redis-server", async () => {
  provide("redis-server", 'echo "Redis server v=6.2.14 sha=00000000:0"');
  provide("valkey-server", 'echo "Valkey server v=8.0.1 sha=00000000:0"');
  expect(await setUp()).toEqual({ code: 0, said: "" });
});

test("installs a missing server with the system's package manager and says so in one line", async () => {
  provideInstaller("7.0.15");
  const { code, said } = await setUp();
  expect(code).toBe(0);
  expect(said).toBe("skein: installing redis-server with apt-get, for a Redis 7.0 or newer is missing …\n");
  expect(await calls()).toEqual(["update", "install --yes --no-install-recommends redis-server"]);
});

test("stops with the remedies when the system's server is too old", async () => {
  provideInstaller("6.0.16");
  expectRemedies(await setUp(), "apt-get did not bring one");
});

test("stops with the remedies when there is nothing to install with", async () => {
  expectRemedies(await setUp(), "no known package manager");
});

test("needs no server when SKEIN_REDIS_URL names one", async () => {
  expect(await setUp({ SKEIN_REDIS_URL: "redis://10.0.0.1:6379" })).toEqual({ code: 0, said: "" });
});

test("a command that is run after set-up gets the arguments and signals, and its exit code is passed on", async () => {
  const target = join(folder, "target.ts");
  writeFileSync(
    target,
    'process.on("SIGTERM", () => process.exit(7));\nconsole.log("ready", ...process.argv.slice(2));\nsetInterval(() => undefined, 1_000);\n',
  );
  const command = join(folder, "command.ts");
  writeFileSync(
    command,
    `import { runWithSetUp } from ${JSON.stringify(SETUP)};\nawait runWithSetUp(${JSON.stringify(target)}, { redis: false });\n`,
  );
  const child = Bun.spawn([process.execPath, command, "--a", "b"], { stdin: "ignore", stdout: "pipe" });
  let out = "";
  const reading = (async () => {
    for await (const chunk of child.stdout) out += new TextDecoder().decode(chunk);
  })();
  await eventually(() => expect(out).toBe("ready --a b\n"));
  child.kill("SIGTERM");
  expect(await child.exited).toBe(7);
  await reading;
});

/** A program on this machine's PATH. */
function provide(name: string, script: string): void {
  const path = join(bin, name);
  writeFileSync(path, `#!/bin/sh\n${script}\n`);
  chmodSync(path, 0o755);
}

/** An apt-get that notes its calls and brings a redis-server of `version`. The tests need not run as root, so sudo is there too. */
function provideInstaller(version: string): void {
  const server = join(bin, "redis-server");
  provide(
    "apt-get",
    `echo "$@" >> "${folder}/calls"
if [ "$1" = install ]; then
  printf '#!/bin/sh\\necho "Redis server v=${version} sha=00000000:0"\\n' > "${server}"
  chmod 755 "${server}"
fi`,
  );
  provide("sudo", 'shift\n[ "$1" = true ] || "$@"');
}

async function calls(): Promise<string[]> {
  return (await Bun.file(join(folder, "calls")).text()).trim().split("\n");
}

async function setUp(env: Record<string, string> = {}): Promise<{ code: number; said: string }> {
  const child = Bun.spawn([process.execPath, SETUP], {
    env: { PATH: bin, HOME: process.env.HOME, ...env },
    stdin: "ignore",
    stdout: "ignore",
    stderr: "pipe",
  });
  const said = await child.stderr.text();
  return { code: await child.exited, said };
}

function expectRemedies({ code, said }: { code: number; said: string }, reason: string): void {
  expect(code).toBe(1);
  expect(said).toContain(reason);
  for (const remedy of ["install it yourself", "set SKEIN_REDIS_URL", "a user who may install packages"]) {
    expect(said).toContain(remedy);
  }
}
