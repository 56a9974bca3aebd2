/**
 * Set-up: what the other commands need before they can start. Installs the dependencies when the lockfile says so, and a Redis
 * server when there is none. Runs on a bare Bun and therefore imports no package, here and in whoever calls it first.
 *
 * A process that began without `node_modules` would let Bun fetch packages on its own, of any version. So what needs packages is
 * started as a process of its own, always, by `runWithSetUp`: one path, at the first start and at every later one.
 */

import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { dirname, join } from "node:path";
import { isatty } from "node:tty";
import manifest from "../package.json";

const ROOT = join(import.meta.dir, "..");
/** Holds the hash of the lockfile that `node_modules` was installed from. */
const STAMP = join(ROOT, "node_modules", ".skein-lock");
/** A cold cache on a slow line takes minutes; a mirror that hangs must not hold a start for ever. */
const INSTALL_TIMEOUT_MS = 10 * 60_000;
/** Scripts with flags, XAUTOCLAIM's deleted list and the multi-part AOF came with it (lib/redis/checks.ts judges a running one). */
const REDIS_MAJOR_MIN = 7;
/** Debian's, one folder a version. */
const POSTGRES_FOLDER = "/usr/lib/postgresql";
const SERVERS = ["redis-server", "valkey-server"] as const;

export interface SetUpOptions {
  /** Whether a Redis server must be on this machine. By default unless SKEIN_REDIS_URL names one elsewhere. */
  readonly redis?: boolean;
  /** Whether a PostgreSQL server is wanted, for tests; where none can be installed they do without. By default not. */
  readonly postgres?: boolean;
}

/** What a person must do before Skein can start; its message is all there is to say. */
export class SetUpError extends Error {
  override readonly name = "SetUpError";
}

/**
 * Makes the machine ready; says in one line what it installs, on standard error. Resolves with whether anything was installed.
 * Throws SetUpError with the ways out where it may not.
 */
export async function setUp({
  redis = needsOwnRedis(),
  postgres = false,
}: SetUpOptions = {}): Promise<{ installed: boolean }> {
  if (!Bun.semver.satisfies(Bun.version, manifest.engines.bun)) {
    throw new SetUpError(
      `Skein needs Bun ${manifest.engines.bun}, this is ${Bun.version}: put "npx --yes ${manifest.packageManager}" in place of "bun"`,
    );
  }
  const hasNewPackages = await installPackages();
  const hasNewRedis = redis && (await installRedis());
  const hasNewPostgres = postgres && (await installPostgres());
  return { installed: hasNewPackages || hasNewRedis || hasNewPostgres };
}

/**
 * Sets up, then runs `script` with this command's arguments and terminal, passes signals on, and exits as it does. The one way in
 * for a command whose code imports packages: `await runWithSetUp(join(import.meta.dir, "skein/main.ts"))`.
 */
export async function runWithSetUp(script: string, options: SetUpOptions = {}): Promise<never> {
  await setUpOrExit(options);
  process.exit(await run([process.execPath, script, ...process.argv.slice(2)]));
}

/** As setUp; ends the process with what is to be done where it fails. */
export async function setUpOrExit(options: SetUpOptions = {}): Promise<void> {
  try {
    await setUp(options);
  } catch (error) {
    if (!(error instanceof SetUpError)) throw error;
    console.error(error.message);
    process.exit(1);
  }
}

/** Runs a command in the foreground, passing signals on. Resolves with its exit code; 128 + n when signal n ended it. */
export async function run(command: readonly string[]): Promise<number> {
  const child = Bun.spawn([...command], {
    cwd: process.cwd(),
    stdin: "inherit",
    stdout: "inherit",
    stderr: "inherit",
    // Says nothing; that it closes tells the child that this process was killed.
    ipc: () => undefined,
  });
  // A terminal sends these to all its foreground processes: the child has them already, and would take a second for "at once".
  const fromTerminal: readonly NodeJS.Signals[] = isatty(0) ? ["SIGINT", "SIGHUP"] : [];
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => {
      if (!fromTerminal.includes(signal)) child.kill(signal);
    });
  }
  await child.exited;
  return child.exitCode ?? 128 + (constants.signals[child.signalCode as NodeJS.Signals] ?? 0);
}

function needsOwnRedis(): boolean {
  // Before lib/config.ts can be loaded; it checks the value.
  return !process.env.SKEIN_REDIS_URL;
}

async function installPackages(): Promise<boolean> {
  const lock = createHash("sha256")
    .update(readFileSync(join(ROOT, "bun.lock")))
    .digest("hex");
  if (existsSync(STAMP) && readFileSync(STAMP, "utf8") === lock) return false;
  say("installing the packages of bun.lock …");
  const { ok, output } = await runQuietly([process.execPath, "install", "--frozen-lockfile"]);
  if (!ok) throw new SetUpError(`bun install failed:\n${output}`);
  writeFileSync(STAMP, lock);
  return true;
}

async function installRedis(): Promise<boolean> {
  if (findRedisServer()) return false;
  const present = INSTALLERS.filter(({ name }) => Bun.which(name));
  const installer = present.find(mayUse);
  if (!installer) {
    const reason = present.length > 0 ? "this user may not install packages" : "no known package manager";
    throw new SetUpError(remedies(reason));
  }
  say(
    `installing ${installer.packages[0]} with ${installer.name}, for a Redis ${REDIS_MAJOR_MIN}.0 or newer is missing …`,
  );
  const command = isRoot() || !installer.isForRoot ? [installer.name] : ["sudo", "-n", installer.name];
  if (installer.refresh) await runQuietly([...command, ...installer.refresh]);
  const outputs: string[] = [];
  for (const name of installer.packages) {
    outputs.push((await runQuietly([...command, ...installer.install, name])).output);
    if (findRedisServer()) return true;
  }
  throw new SetUpError(`${remedies(`${installer.name} did not bring one`)}\n${outputs.join("\n")}`);
}

/** The path of the first server on PATH that is new enough. */
export function findRedisServer(): string | undefined {
  for (const name of SERVERS) {
    const path = Bun.which(name);
    if (!path) continue;
    const { stdout } = Bun.spawnSync([path, "--version"]);
    if (Number(/\bv=(\d+)\./.exec(stdout.toString())?.[1]) >= REDIS_MAJOR_MIN) return path;
  }
  return undefined;
}

/** Of Debian and its kin only, whose package brings the binaries that tests start. That it cannot is for the tests to say. */
async function installPostgres(): Promise<boolean> {
  const installer = INSTALLERS.find(({ name }) => name === "apt-get" && Bun.which(name));
  if (findPostgresServer() || !installer || !mayUse(installer)) return false;
  say("installing postgresql with apt-get, for the tests of the archive on it …");
  const command = isRoot() ? [installer.name] : ["sudo", "-n", installer.name];
  await runQuietly([...command, ...(installer.refresh ?? [])]);
  await runQuietly([...command, ...installer.install, "postgresql"]);
  return findPostgresServer() !== undefined;
}

/** The folder of PostgreSQL's binaries, the newest of several: on PATH, or where Debian keeps them, which is not on PATH. */
export function findPostgresServer(): string | undefined {
  const onPath = Bun.which("postgres");
  if (onPath) return dirname(onPath);
  if (!existsSync(POSTGRES_FOLDER)) return undefined;
  const versions = readdirSync(POSTGRES_FOLDER).sort((a, b) => Number(b) - Number(a));
  return versions
    .map((version) => join(POSTGRES_FOLDER, version, "bin"))
    .find((bin) => existsSync(join(bin, "initdb")));
}

interface Installer {
  readonly name: string;
  /** Brings the list of packages up to date; its failure shows in the install. */
  readonly refresh?: readonly string[];
  readonly install: readonly string[];
  /** In order of preference: newer distributions have Valkey only. */
  readonly packages: readonly string[];
  readonly isForRoot: boolean;
}

const INSTALLERS: readonly Installer[] = [
  {
    name: "apt-get",
    refresh: ["update"],
    install: ["install", "--yes", "--no-install-recommends"],
    packages: ["redis-server", "valkey-server"],
    isForRoot: true,
  },
  { name: "apk", install: ["add", "--no-cache"], packages: ["redis", "valkey"], isForRoot: true },
  { name: "dnf", install: ["install", "--assumeyes"], packages: ["redis", "valkey"], isForRoot: true },
  // Last: on Linux it stands beside the system's own. It refuses root.
  { name: "brew", install: ["install"], packages: ["redis", "valkey"], isForRoot: false },
];

/** Whether it may install without asking anybody for a password. */
function mayUse({ isForRoot }: Installer): boolean {
  if (!isForRoot) return !isRoot();
  if (isRoot()) return true;
  return Bun.which("sudo") !== null && Bun.spawnSync(["sudo", "-n", "true"], { stdin: "ignore" }).success;
}

function isRoot(): boolean {
  return process.getuid?.() === 0;
}

function remedies(reason: string): string {
  return [
    `Skein needs a Redis or Valkey server ${REDIS_MAJOR_MIN}.0 or newer, and there is none on PATH (${reason}). One of:`,
    "  - install it yourself (Debian: apt-get install redis-server; macOS: brew install redis), then start again;",
    "  - set SKEIN_REDIS_URL to one that you have, e.g. redis://:password@host:6379;",
    "  - start again as a user who may install packages (root, or sudo without a password).",
  ].join("\n");
}

async function runQuietly(command: readonly string[]): Promise<{ ok: boolean; output: string }> {
  const child = Bun.spawn([...command], {
    cwd: ROOT,
    env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    timeout: INSTALL_TIMEOUT_MS,
  });
  const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { ok: child.exitCode === 0, output: `${stdout}${stderr}`.trim() };
}

function say(line: string): void {
  console.error(`skein: ${line}`);
}

if (import.meta.main) await setUpOrExit();
