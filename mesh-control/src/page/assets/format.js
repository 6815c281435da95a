// Numbers as a person reads them: three digits say enough.

// Made once: to make one for each number would take longer than the picture.
const FORMATS = [0, 1, 2].map((most) => new Intl.NumberFormat("en", { maximumFractionDigits: most }));
const digits = (value, most) => FORMATS[most].format(value);

/** Calls per second. */
export function rate(perSecond) {
  if (perSecond === 0) return "idle";
  if (perSecond >= 10_000) return `${digits(perSecond / 1000, 1)}k/s`;
  return `${digits(perSecond, perSecond >= 100 ? 0 : perSecond >= 10 ? 1 : 2)}/s`;
}

/** A share of one. */
export function percent(share) {
  if (share === null || share === undefined) return "–";
  const value = share * 100;
  if (value > 0 && value < 0.1) return "<0.1 %";
  return `${digits(value, value < 10 || value > 99 ? 1 : 0)} %`;
}

/** Milliseconds. */
export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms >= 10_000) return `${digits(ms / 1000, 0)} s`;
  if (ms >= 1000) return `${digits(ms / 1000, 1)} s`;
  return `${digits(ms, ms >= 100 ? 0 : ms >= 10 ? 1 : 2)} ms`;
}

/** A count. */
export const count = (number) => digits(number, 0);

/** `1 call`, `2 calls`. */
export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

/** How bad a share of errors is: the word that style goes by. */
export function health(numbers) {
  if (numbers.rate === 0 && numbers.calls.window === 0) return "idle";
  if (numbers.error_rate > 0.05) return "bad";
  return numbers.error_rate > 0.001 ? "warn" : "good";
}

/** What is known of how calls were protected: `all`, `some`, `none` or `unknown`. */
export function protection(numbers) {
  const { secured, calls } = numbers;
  if (!secured || calls.total === 0) return "unknown";
  const [of, all] = calls.window > 0 ? [secured.window, calls.window] : [secured.total, calls.total];
  // What reached nobody was sent over nothing.
  if (of === 0) return "none";
  return of >= all ? "all" : "some";
}

export const PROTECTION = {
  all: "mutual TLS",
  some: "partly mutual TLS",
  none: "no mutual TLS",
  unknown: "protection not told",
};

/** Envoy's response flags, in words. */
export const FLAGS = {
  DC: "the caller went away", DI: "delayed on purpose", DF: "the name could not be resolved", DT: "took longer than it may",
  FI: "failed on purpose", IH: "refused for a header", LH: "failed its health check", LR: "reset here", NC: "no such cluster",
  NR: "no route", OM: "out of memory", RL: "rate limited", RLSE: "the rate limiter failed", SI: "the stream was idle too long",
  UAEX: "refused by an authorizer", UC: "the connection was lost", UF: "no connection could be made",
  UH: "no healthy endpoint", UO: "over a limit of the cluster", UPE: "the server broke the protocol",
  UR: "the server reset the stream", URX: "out of retries", UT: "timed out", DPE: "the caller broke the protocol",
};

const GRPC = ["OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
  "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL",
  "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"];

/** How calls ended that failed. */
export function ending({ protocol, code }) {
  if (protocol === "grpc") return GRPC[code] ?? `gRPC ${code}`;
  if (protocol === "other") return "others";
  return code === 0 ? "no answer" : `HTTP ${code}`;
}
