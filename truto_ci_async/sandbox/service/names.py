"""Word lists for made-up people, companies, meetings and what is said in them. None of it is real."""

from __future__ import annotations

from typing import Final

FIRST_NAMES: Final = (
    "Ada", "Aisha", "Björn", "Bruno", "Carla", "Chen", "Chidi", "Dana", "Diego", "Elif", "Emeka", "Esther", "Farah",
    "Felix", "Grace", "Hana", "Hugo", "Imani", "Ines", "Ivan", "Jonas", "Julia", "Kamal", "Keiko", "Laila", "Leo",
    "Lucía", "Malik", "Maren", "Mateo", "Mei", "Nadia", "Niall", "Noor", "Olga", "Omar", "Paolo", "Petra", "Priya",
    "Quinn", "Rafael", "Rosa", "Ruth", "Sanjay", "Selma", "Sofia", "Tariq", "Tess", "Tomás", "Uma", "Victor", "Wanda",
    "Yara", "Yusuf", "Zoë", "Asha", "Emil", "Greta", "Kofi", "Marta",
)  # fmt: skip
LAST_NAMES: Final = (
    "Abara", "Adler", "Alvarez", "Andersson", "Bakker", "Banerjee", "Bianchi", "Castro", "Chaudhry", "Cohen", "Dietz",
    "Dubois", "Eze", "Farouk", "Fischer", "Flores", "Fontaine", "Garcia", "Haddad", "Hansen", "Hughes", "Ibrahim",
    "Ito", "Jansen", "Kaplan", "Keller", "Kim", "Kowalski", "Kumar", "Larsen", "Lindqvist", "Lopez", "Martin",
    "Mbeki", "Mensah", "Meyer", "Moreau", "Murphy", "Nakamura", "Navarro", "Nguyen", "Novak", "Núñez", "O'Neil",
    "Okafor", "Oliveira", "Park", "Patel", "Petrov", "Quist", "Rahman", "Reyes", "Rossi", "Sato", "Schmidt", "Sharma",
    "Silva", "Smith", "Sørensen", "Tanaka", "Torres", "Usman", "Varga", "Vega", "Walker", "Weber", "Wong", "Yilmaz",
    "Zhang", "Zimmer",
)  # fmt: skip
COMPANIES: Final = (
    "Amberline", "Brightwater", "Cedarpoint", "Driftwood", "Eastgate", "Fernhill", "Glasswing", "Harborlight",
    "Ironbark", "Juniper Row", "Kestrelworks", "Lanternfish", "Millbrook", "Northfield", "Oakmere", "Pinecrest",
    "Quarrystone", "Riverbend", "Silverleaf", "Thornbury", "Underhill", "Valemont", "Westmarch", "Yarrow",
)  # fmt: skip
DEPARTMENTS: Final = (
    ("Sales", "Account Executive"),
    ("Sales Development", "Sales Development Representative"),
    ("Customer Success", "Customer Success Manager"),
    ("Account Management", "Account Manager"),
    ("Solutions Engineering", "Solutions Engineer"),
    ("Support", "Support Specialist"),
)
# With guests, then without. `{}` is the customer.
EXTERNAL_TITLES: Final = (
    "Discovery call with {}", "{}: product demo", "{}: pricing and next steps", "Quarterly review with {}",
    "{} onboarding kick-off", "Renewal check-in: {}", "{}: security questionnaire", "Proof of concept review: {}",
)  # fmt: skip
INTERNAL_TITLES: Final = (
    "Pipeline review", "Team stand-up", "Forecast call", "Deal desk: {}", "Handover of {} to onboarding",
    "Call coaching", "Post-mortem: {}",
)  # fmt: skip
TOPICS: Final = (
    "Pricing", "Security", "Integrations", "Onboarding", "Reporting", "Competition", "Timeline", "Next steps",
)  # fmt: skip
OPENINGS: Final = (
    "Thanks for making the time today.", "Can everybody hear me all right?", "Good to see you all again.",
    "Shall we give the others another minute?", "I'll share my screen in a moment.",
)  # fmt: skip
CLOSINGS: Final = (
    "I'll send a short summary this afternoon.", "Let's speak again next week.", "Thank you, that was really helpful.",
    "Please say hello to the rest of the team.", "Perfect, I'll put something in the calendar.",
)  # fmt: skip
SENTENCES: Final = {
    "Pricing": (
        "What would the price be for fifty seats?", "We have a budget, but it has to be approved by finance.",
        "The annual plan comes with a discount of ten percent.", "Is there a charge for each connected account?",
    ),
    "Security": (
        "Our security team will want to see the audit report.", "Where is the data stored?",
        "Everything is encrypted, at rest and on the way.", "Do you support single sign-on?",
    ),
    "Integrations": (
        "We need this in our CRM, otherwise nobody will look at it.", "How long does the integration take to set up?",
        "There is an API, and most customers start with that.", "Does it write back, or does it only read?",
    ),
    "Onboarding": (
        "Who will be the main contact during onboarding?", "The first two weeks are mostly about importing data.",
        "We would like to train the team leads first.", "I can join the first sessions myself.",
    ),
    "Reporting": (
        "At the moment we do the report by hand, every Monday.", "Can I export that as a spreadsheet?",
        "You can group it by team or by person.", "Our managers mostly care about the trend.",
    ),
    "Competition": (
        "We are looking at two other products as well.", "What do you do better than the one we use now?",
        "To be honest, the one we have is slow.", "I can put you in touch with a customer who switched.",
    ),
    "Timeline": (
        "We would like to go live before the end of the quarter.", "That date is tight, but it can be done.",
        "Legal usually takes two weeks.", "When do you have to decide?",
    ),
    "Next steps": (
        "Let me write down what we agreed.", "Could you send me the proposal by Thursday?",
        "I will talk to my manager and come back to you.", "Then the next step is a trial with one team.",
    ),
}  # fmt: skip
REPLIES: Final = (
    "Yes, exactly.", "That makes sense.", "Let me check that and get back to you.", "I see.", "Good question.",
    "Right, we had the same concern.", "Could you say a little more about that?", "Okay.",
)  # fmt: skip
