// The selected sample: its spectrogram with axes, its other images, its settings and scores.

const at = (id) => document.getElementById(id);

function showDetail(i) {
  const { width, height, seconds, rate } = canvas(i);
  at("picture").style.aspectRatio = `${width} / ${height}`;
  const picture = at("picture").querySelector("img");
  picture.src = spectrogramOf(i);
  picture.alt = "Spectrogram: " + PROMPTS.map((name) => text(setting(name, i))).join(", ");
  at("seconds").replaceChildren(...secondsTicks(seconds));
  at("hz").replaceChildren(...hertzTicks(rate / 2));
  const others = pictures(i).filter((name) => name !== "spectrogram").map((name) => [name, text(setting(name + ".prompt", i))]);
  at("views").replaceChildren(...[...colors(i), ...others].map(([name, prompt]) => view(i, name, prompt)));
  at("settings").replaceChildren(
    ...row("id", DATA.ids[i]), ...Object.entries(DATA.scores).flatMap(([name, of]) => row(name, text(of[i]))),
    ...PROMPTS.flatMap((name) => row(name, text(setting(name, i)))),
    ...OTHERS.flatMap((name) => row(name, text(setting(name, i)))));
  at("commands").textContent = FORMS.again([i]) + FORMS.videos([i]);
  showStar(i);
  showTime(i);
}

function showCommon() {
  const rest = Object.entries(DATA.common).filter(([name]) => !isPrompt(name));
  at("common").replaceChildren(...rest.flatMap(([name, value]) => row(name, text(value))));
}

function row(name, value) {
  return [element("dt", { textContent: name }), element("dd", { textContent: value })];
}

function view(i, name, prompt) {
  const caption = element("figcaption", {}, `${name}: `, element("b", { textContent: prompt }));
  return element("figure", {}, element("img", { src: address(i, name + ".png"), alt: `Picture of ${name}`, decoding: "async" }), caption);
}

function showStar(i) {
  at("star").setAttribute("aria-pressed", isStarred(i));
  at("star").textContent = isStarred(i) ? "★ Starred" : "☆ Star";
}

function showTime(i) {
  const heard = player.sample === i, now = heard ? share() : 0;
  at("picture").classList.toggle("heard", heard);
  at("picture").style.setProperty("--at", now);
  at("position").value = now;
  at("position").setAttribute("aria-valuetext", `${(now * duration(i)).toFixed(1)} seconds`);
  at("time").textContent = `${(now * duration(i)).toFixed(1)} / ${duration(i).toFixed(1)} s`;
  at("play").textContent = heard && !audio.paused ? "❚❚ Pause" : "▶ Play";
}

function tick(label, side, place) {
  const made = element("span", { textContent: label });
  made.style[side] = 100 * place + "%";
  return made;
}

function secondsTicks(seconds) {
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60].find((step) => seconds / step <= 8) ?? seconds / 5;
  const count = Math.floor(seconds / step + 1e-6);
  return Array.from({ length: count + 1 }, (_, k) => tick(`${+(k * step).toFixed(2)}${k === 0 ? " s" : ""}`, "left", k * step / seconds));
}

// Slaney's mel scale, as in its_jax/audio/mel.py: linear up to 1000 Hz, which is 15 mel, logarithmic above.
function mel(hertz) {
  return hertz < 1000 ? hertz * 3 / 200 : 15 + Math.log(hertz / 1000) * 27 / Math.log(6.4);
}

// The audio models' spectrograms reach from 0 Hz to half the sampling rate.
function hertzTicks(highest) {
  const marks = [0, 500, 1000, 2000, 4000, 8000, 16000].filter((hertz) => hertz <= highest);
  return marks.map((hertz) => tick(hertz >= 1000 ? hertz / 1000 + " kHz" : hertz + " Hz", "bottom", mel(hertz) / mel(highest)));
}
