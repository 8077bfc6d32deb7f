// Plays one sound at a time. `onMove` receives the sample's index and the played share of its sound.

const audio = document.getElementById("audio");
const player = { sample: null, onMove: () => {}, onFault: () => {} };
let wanted = 0; // the share to start at once the sound's length is known

function duration(i) {
  return Number.isFinite(audio.duration) && player.sample === i ? audio.duration : canvas(i).seconds;
}

function load(i) {
  if (player.sample === i) return;
  player.sample = i;
  wanted = 0;
  audio.src = soundOf(i);
}

function seek(i, share) {
  load(i);
  wanted = share;
  if (audio.readyState >= HTMLMediaElement.HAVE_METADATA) audio.currentTime = share * duration(i);
  moved();
}

function play(i, share) {
  seek(i, share);
  audio.play().catch((error) => {
    if (error.name !== "AbortError") player.onFault("This sound cannot be played here: " + error.message);
  });
}

function pauseOrPlay(i) {
  if (player.sample === i && !audio.paused) return audio.pause();
  play(i, player.sample === i && !audio.ended ? share() : 0);
}

function share() {
  if (audio.readyState < HTMLMediaElement.HAVE_METADATA) return wanted;
  return Math.min(1, audio.currentTime / duration(player.sample));
}

function moved() {
  if (player.sample !== null) player.onMove(player.sample, share());
}

function follow() {
  moved();
  if (!audio.paused) requestAnimationFrame(follow);
}

audio.addEventListener("loadedmetadata", () => {
  audio.currentTime = wanted * audio.duration;
});
audio.addEventListener("play", follow);
for (const event of ["pause", "seeked", "ended"]) audio.addEventListener(event, moved);
audio.addEventListener("error", () => player.onFault("This sound cannot be read: " + DATA.ids[player.sample]));
