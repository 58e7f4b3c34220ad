//! The words and sentences that stories are made of, as data.
//!
//! In a template `[a|b|c]` is one of several, and `{name}` a slot: a word of the story's world, or a rule
//! of [`RULES`] with alternatives of its own. `{Name}` begins with a capital. What stands in a slot is
//! drawn once a story, so that a thing keeps its colour and its place to the end.

/// Someone with a name: `(name, pronouns)`.
pub(super) type Person = (&'static str, Pronouns);

/// `he`, `him`, `his`, and what the person is.
pub(super) type Pronouns = [&'static str; 4];

const GIRL: Pronouns = ["she", "her", "her", "girl"];
const BOY: Pronouns = ["he", "him", "his", "boy"];

#[rustfmt::skip]
pub(super) const PEOPLE: &[Person] = &[
    ("Mia", GIRL), ("Tom", BOY), ("Anna", GIRL), ("Ben", BOY), ("Lily", GIRL), ("Max", BOY),
    ("Nora", GIRL), ("Leo", BOY), ("Zoe", GIRL), ("Sam", BOY), ("Ella", GIRL), ("Finn", BOY),
    ("Ruby", GIRL), ("Jack", BOY), ("Ivy", GIRL), ("Omar", BOY), ("Clara", GIRL), ("Hugo", BOY),
    ("Rosa", GIRL), ("Paul", BOY), ("Lina", GIRL), ("Emil", BOY), ("June", GIRL), ("Noah", BOY),
];

/// Words of one kind that need nothing else to be true: `(slot, words)`.
#[rustfmt::skip]
pub(super) const WORDS: &[(&str, &[&str])] = &[
    ("colour", &["red", "blue", "green", "yellow", "white", "brown", "orange", "purple"]),
    ("colour2", &["silver", "golden", "black", "pink", "grey"]),
    ("thing", &["ball", "kite", "hat", "book", "drum", "boat", "key", "doll", "lamp", "scarf", "cup", "spoon", "bell", "coat", "map", "whistle"]),
    ("thing2", &["box", "bag", "basket", "brush", "rope", "stone", "shell", "feather", "mirror", "wheel"]),
    ("hiding", &["under the bed", "behind the door", "in the tall grass", "on top of the shelf", "beside the pond",
        "inside an old boot", "under a heap of leaves", "behind the stove", "in the apple tree", "under the bridge",
        "at the bottom of the basket", "next to the well", "in the corner of the barn", "behind the curtain"]),
    ("wrong1", &["under the table", "in the kitchen", "behind the sofa", "in the big chest", "on the stairs"]),
    ("wrong2", &["in the garden", "near the gate", "in the shed", "on the wall", "by the road"]),
    ("place", &["the park", "the garden", "the forest", "the beach", "the farm", "the market", "the meadow", "the river", "the old mill", "the hill"]),
    ("place2", &["the village", "the lake", "the harbour", "the church", "the school", "the bakery", "the station"]),
    ("fruit", &["apples", "pears", "plums", "cherries", "nuts", "berries", "carrots", "buns", "cookies"]),
    ("skill", &["swim", "whistle", "ride a bike", "skate", "read", "dance", "climb a rope", "bake bread", "tie a knot", "play the flute"]),
    ("sweet", &["a cake", "a pie", "a soup", "a loaf of bread", "a bowl of jam"]),
    ("kin", &["mother", "father", "grandmother", "grandfather", "aunt", "uncle", "big sister", "big brother"]),
    ("kind", &["kind", "brave", "clever", "quiet", "cheerful", "curious", "careful", "proud", "shy"]),
];

/// Words that belong together, drawn as one row: `(slots, rows)`.
type Table = (&'static [&'static str], &'static [&'static [&'static str]]);

#[rustfmt::skip]
pub(super) const TABLES: &[Table] = &[
    // An animal, what it says, what it eats, where it sleeps.
    (&["animal", "sound", "food", "nest"], &[
        &["dog", "barked", "a bone", "in a basket"], &["cat", "purred", "a little fish", "on a cushion"],
        &["duck", "quacked", "some bread", "beside the water"], &["horse", "neighed", "some hay", "in the stable"],
        &["cow", "mooed", "fresh grass", "in the barn"], &["mouse", "squeaked", "a piece of cheese", "in a hole"],
        &["owl", "hooted", "a fat beetle", "in a hollow tree"], &["frog", "croaked", "a fly", "under a leaf"],
        &["goat", "bleated", "a cabbage", "on the straw"], &["hen", "clucked", "some corn", "in the straw"],
    ]),
    // A need, what one says, what is done about it, and how one feels then.
    (&["need", "says", "remedy", "relief"], &[
        &["hungry", "I have not eaten all day", "ate a big bowl of soup", "full"],
        &["thirsty", "My mouth is so dry", "drank a glass of cold water", "much better"],
        &["cold", "My fingers are like ice", "sat down beside the fire", "warm"],
        &["tired", "I cannot keep my eyes open", "slept for an hour", "fresh again"],
        &["wet", "Water is running out of my shoes", "put on dry clothes", "dry"],
        &["dirty", "There is mud in my hair", "took a long bath", "clean"],
        &["hot", "The sun burns my head", "sat down in the shade of a tree", "cool"],
        &["bored", "There is nothing to do", "drew a picture of a ship", "happy"],
    ]),
    // What the weather did, what came of it, and what people did about it.
    (&["weather", "effect", "answer"], &[
        &["it began to rain", "the road was full of puddles", "opened an umbrella"],
        &["it began to snow", "everything was white", "made a snowman"],
        &["a strong wind came up", "the leaves flew through the air", "held on to the fence"],
        &["thick fog came from the river", "nobody could see the way", "lit a lantern"],
        &["the sun came out", "the ice on the pond melted", "took off the heavy coat"],
        &["a storm broke out", "a branch fell on the path", "ran into the barn"],
        &["it became very cold", "the water in the bucket froze", "put wood on the fire"],
        &["it did not rain for weeks", "the flowers hung their heads", "carried water from the well"],
    ]),
    // Something broken, why, and what it takes.
    (&["broken", "because", "tool", "mended"], &[
        &["the gate", "a nail had come out", "a hammer", "the gate opened and closed again"],
        &["the chair", "one leg was loose", "some glue", "the chair stood firmly"],
        &["the boat", "there was a hole in it", "a piece of wood", "the boat did not sink any more"],
        &["the coat", "a button was missing", "a needle", "the coat was as good as new"],
        &["the lamp", "the wick was too short", "a new wick", "the lamp gave light again"],
        &["the cart", "a wheel had come off", "a strong rope", "the cart rolled down the road"],
        &["the roof", "the wind had taken some tiles", "a long ladder", "no rain came in any more"],
        &["the clock", "a spring was dusty", "a small brush", "the clock ticked again"],
    ]),
    // A riddle and its answer.
    (&["riddle", "solution"], &[
        &["I am green and I jump", "a frog"], &["I have hands but I cannot clap", "a clock"],
        &["I am yellow and I shine all day", "the sun"], &["I have a neck but no head", "a bottle"],
        &["I fall but I never get hurt", "the rain"], &["I have teeth but I do not bite", "a comb"],
        &["I am white in winter and gone in spring", "the snow"], &["I run but I have no legs", "the river"],
        &["I have pages but I am no tree", "a book"], &["I carry my house on my back", "a snail"],
    ]),
    // What is forbidden, what happens, and what it felt like.
    (&["forbidden", "happens", "hurts"], &[
        &["touch the hot pot", "the pot burned a finger", "It hurt very much"],
        &["run on the ice", "the ice cracked", "The water was terribly cold"],
        &["eat all the cake", "the stomach began to ache", "It hurt all evening"],
        &["open the cage", "the bird flew away", "The cage was empty and still"],
        &["leave the door open", "the goat came in and ate the flowers", "The vase lay on the floor"],
        &["climb the old wall", "a stone broke off", "One knee was bleeding"],
        &["pull the cat's tail", "the cat scratched a hand", "There was a long red line"],
        &["play with the matches", "the curtain caught fire", "The room was full of smoke"],
    ]),
    // Numbers: so many, one or two given away, so many left.
    (&["many", "given", "left"], &[
        &["three", "one", "two"], &["four", "one", "three"], &["five", "two", "three"], &["six", "two", "four"],
        &["seven", "three", "four"], &["eight", "three", "five"], &["nine", "four", "five"], &["ten", "four", "six"],
    ]),
    // A noise, and what it was.
    (&["noise", "cause"], &[
        &["a knocking at the window", "a branch in the wind"], &["a scratching under the floor", "a mouse with a nut"],
        &["a deep howl", "the wind in the chimney"], &["slow steps above", "the cat on the roof"],
        &["a soft ticking", "the old clock in the hall"], &["a splash in the dark", "a fish in the pond"],
    ]),
];

/// Parts of sentences and whole ones that several plots share.
#[rustfmt::skip]
pub(super) const RULES: &[(&str, &str)] = &[
    ("intro", "[There was once|Once upon a time there was|In a small house beside {place} there lived|Not far from {place2} there lived] a [little|small|young] {child} [named|called] {hero}. "),
    ("trait", "[|{He} was {kind}[ and liked to laugh||, and everybody knew it]. |{Hero} had a [|good |dear ]friend [named|called] {friend}. |{He} lived with {his} {kin}[| and a {animal}]. ]"),
    ("time", "[One day|One morning|One evening|On a Sunday|Early in the morning|In the afternoon|Last summer|When spring came|In the middle of winter]"),
    ("said", "[said|answered|cried|whispered|replied]"),
    ("asked", "[asked|asked|said]"),
    ("glad", "[glad|happy|very happy|full of joy|so glad that {he} jumped up and down]"),
    ("sad", "[sad|unhappy|very sad|close to tears]"),
    ("thanks", "[\"Thank you[|, {friend}|, my friend]!\" {said} {hero}. |{Hero} thanked {friend}. |\"You are a good friend,\" {said} {hero}. ]"),
    ("home", "[Then they went home.|In the evening they went home[| together].|They walked home [slowly|hand in hand|through {place}].|When the sun went down, everyone went home.]"),
    ("sleep", "[That night {hero} slept well.|{Hero} went to bed and dreamed of {place}.|Soon {hero} was fast asleep.]"),
    ("thanks2", "\"Thank you for the {fruit},\" {said} {friend}. "),
    ("near", "[in {place}|near {place}|behind the house|on the way to {place2}]"),
    ("end", "[{home}|{sleep}|And that is the end of the story.|From that day on they were [good|the best of] friends.|{Hero} never forgot that day.]"),
];

/// The plots: one template a scene, in order.
#[rustfmt::skip]
pub(super) const PLOTS: &[&[&str]] = &[
    // Lost and found: where it was is said at the start.
    &["{intro}{trait}", "{Hero} had a {colour} {thing}[ that {he} loved|, a present from {his} {kin}|]. ",
      "{time} {he} [played with it and then put it|left it|forgot it] {hiding}. [Then {he} went to {place}. |Then {hero} went in to eat. |After that {weather}, and {effect}. ]",
      "[Later|The next day|After a while] {hero} looked for the {colour} {thing}. It was not {wrong1}, and it was not {wrong2}. {Hero} was {sad}. ",
      "\"[What is the matter|Why are you sad|What are you looking for]?\" {asked} {friend}. \"I cannot find my {thing},\" {said} {hero}. \"[What colour is it|What does it look like]?\" \"It is {colour}.\" ",
      "\"[Where did you have it last|Where were you before]?\" {Hero} thought for a moment. \"[I remember|Now I know]! It is {hiding}!\" ",
      "They looked {hiding}, and there was the {colour} {thing}. {Hero} was {glad}. ", "{end}"],
    // A need and what helps.
    &["{intro}{trait}", "{time} {hero} [walked to {place}|worked in the garden|came home late|was on the way to {place2}]. [|{Weather}, and {effect}. ]",
      "{He} was very {need}. \"{says},\" {said} {hero}. ", "{Friend} heard it. \"If you are {need}, come with me,\" {said} {friend}. They went into the house. ",
      "{Hero} {remedy}. [Now|After that|Then] {he} was not {need} any more. {He} was {relief}. ", "{thanks}", "{end}"],
    // Weather and what came of it.
    &["{time} {hero} and {friend} [were at|went to|played in front of the house near] {place}. ", "Suddenly {weather}. Because of that {effect}. ",
      "\"[What shall we do|What now]?\" {asked} {friend}. \"[I know|Do not worry|Wait]!\" {said} {hero}. ", "{Hero} {answer}, and {friend} [helped|did the same|laughed]. ",
      "[|On the way they met a {animal}. It {sound} and looked for {food}. ]", "\"{Weather}, and so {effect},\" {said} {hero} [at home|in the evening] to {his} {kin}. ", "{end}"],
    // Sharing.
    &["{intro}{trait}", "{He} had {many} {fruit}. {time} {he} met {friend} [near|not far from|on the way to] {place}. ",
      "{Friend} had nothing to eat and was {sad}. \"Would you like some {fruit}?\" {asked} {hero}. \"[Yes, please|Oh yes]!\" {said} {friend}. ",
      "{Hero} gave {friend} {given}. Now {hero} had {left} {fruit}, and {friend} had {given}. ", "[They sat down under a tree and ate. |They sat by the water and were full. ]{thanks2}", "{end}"],
    // Helping an animal.
    &["{time} {hero} heard something {near}. It was a {colour} {animal}. It {sound} and could not get out of [the mud|a deep hole|the thorns|an old net]. ",
      "\"Poor {animal},\" {said} {hero}. \"I will help you.\" {Friend} brought [a {thing2}|a rope|a long stick]. Together they pulled, and the {animal} was free. ",
      "It was hungry, so {hero} gave it {food}. The {animal} {sound}. ", "\"[Where does it sleep|Where shall it stay]?\" {asked} {friend}. \"A {animal} sleeps {nest},\" {said} {hero}. ",
      "In the evening the {colour} {animal} lay {nest} and slept. ", "[|{end}]"],
    // Learning.
    &["{intro}{trait}", "{Hero} wanted to learn to {skill}. {His} {kin} {said}: \"It takes time. Try every day.\" ",
      "[On the first day|At first] {hero} tried and it did not work. {He} was {sad}. [On the second day|The next day] it was a little better. ",
      "\"I cannot {skill},\" {said} {hero}. \"You cannot {skill} yet,\" {said} {friend}. \"Try once more.\" ", "{He} tried again and again. After a week {hero} could {skill}. {His} {kin} was proud, and {hero} was {glad}. ", "{end}"],
    // A riddle.
    &["{Hero} and {friend} [sat by the fire|walked to {place}|waited for the bread to be ready|lay in the grass]. ", "\"Do you like riddles?\" {asked} {friend}. \"Yes, I do,\" {said} {hero}. ",
      "\"Then listen. {riddle}. What am I?\" {Hero} thought [hard|for a long time|and looked at the sky]. ", "[\"Are you a {thing}?\" \"No, I am not a {thing}.\" \"Are you a {animal}?\" \"No, I am not a {animal} either.\" |]",
      "\"Now I know!\" {said} {hero}. \"You are {solution}!\" \"That is right,\" {said} {friend}. \"{riddle}. I am {solution}.\" ", "[They both laughed. |{Friend} clapped. ]{end}"],
    // What was forbidden.
    &["{intro}{trait}", "\"Do not {forbidden},\" {said} {his} {kin} [and went out|in the morning|before {he} left]. \"I will not {forbidden},\" {said} {hero}. ",
      "But [when nobody was there|after a while], {hero} wanted to know what would happen. {He} did it all the same, and then {happens}. {hurts}. ",
      "\"What happened?\" {asked} {his} {kin}. {Hero} told the truth: \"I was told not to {forbidden}, but I did, and {happens}. I am sorry.\" ", "\"[It is good that you told me|Next time you will know],\" {said} {his} {kin}[| and took {hero} in both arms]. ", "{end}"],
    // Mending.
    &["{time} {hero} saw that {broken} was broken. \"Why is {broken} broken?\" {asked} {friend}. \"Because {because},\" {said} {hero}. ",
      "\"We need {tool}.\" They had nothing like that, so they went to {place2}. There {hero} asked {his} {kin}. \"Could you lend us {tool}?\" \"Of course. But bring it back.\" ",
      "They worked [all morning|until noon|for two hours]. With {tool} they mended it, and {mended}. ", "Then {hero} took {tool} back to {place2}. {thanks}", "{end}"],
    // A present.
    &["It was {hero}'s birthday. {His} {kin} came with a {colour2} {thing2}. \"What is in the {thing2}?\" {asked} {hero}. \"Open it and see.\" ",
      "{Hero} opened the {colour2} {thing2}. In it was a {colour} {thing}. \"[A {thing}|A {colour} {thing}]!\" {said} {hero} and was {glad}. ",
      "[After that {weather}, but nobody cared. |They ate {sweet} and sang. |{Friend} came too and brought {many} {fruit}. ]",
      "\"What did you get for your birthday?\" {asked} {friend}. \"I got a {colour} {thing},\" {said} {hero}. \"It was in a {colour2} {thing2}.\" ", "{end}"],
    // A noise at night.
    &["{intro}{trait}", "One night {hero} heard {noise}. {He} was afraid and pulled the blanket over {his} head. ",
      "\"Did you hear {noise}?\" {asked} {hero}. \"Yes,\" whispered {friend}. \"Let us look.\" They took a lamp and went [slowly|very quietly|step by step]. ",
      "And what was it? It was only {cause}. \"It was {cause},\" {said} {hero} and laughed. \"I am not afraid any more.\" ", "{sleep}"],
    // Trading.
    &["{Hero} had a {colour} {thing} and went to the market. There {he} met {friend}, who had a {colour2} {thing2}. ",
      "\"Will you give me your {thing} for my {thing2}?\" {asked} {friend}. {Hero} looked at the {colour2} {thing2} and {said}: \"Yes.\" ", "So {friend} took the {colour} {thing}, and {hero} took the {colour2} {thing2}. ",
      "At home {his} {kin} asked: \"Where is your {colour} {thing}?\" \"{Friend} has it now,\" {said} {hero}. \"And I have a {colour2} {thing2}.\" ", "[Both were glad. |\"That was a good trade,\" {said} {his} {kin}. ]{end}"],
    // A journey.
    &["{intro}{trait}", "{time} {hero} set out for {place2}. First {he} came to {place}. There a {animal} {sound}. \"Good day, {animal},\" {said} {hero}. ",
      "Then {weather}, and {effect}. {Hero} {answer} and went on. ", "At last {he} came to {place2}. {Friend} was already there. \"How did you get here?\" {asked} {friend}. ",
      "\"First I came to {place}, where I met a {animal}. Then {weather}. And now I am here,\" {said} {hero}. ", "[They ate {sweet}. |They shared the last of the {fruit}. ]{end}"],
    // Baking.
    &["{Hero} wanted to make {sweet} for {friend}. \"What do I need?\" {asked} {hero}. \"You need some {fruit}, and water, and time,\" {said} {his} {kin}. ",
      "So {he} went to {place} and came back with {many} {fruit}. {He} ate {given} of them on the way, so {left} were left. ", "{Hero} [mixed|stirred] everything and put it on the fire. [The smell went through the whole house. |It became hot. ]",
      "In the evening {friend} came. \"I am {need},\" {said} {friend}. \"Then sit down,\" {said} {hero}. \"I made {sweet} for you.\" ", "{Friend} tasted it and {said}: \"[This is good|I have never eaten anything better]!\" {end}"],
];
